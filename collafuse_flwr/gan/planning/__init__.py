"""Where each client's part of the split GAN ends."""

"""The GAN that is split between clients and server (HuSCF-GAN)."""

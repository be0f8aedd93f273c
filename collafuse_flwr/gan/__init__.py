"""A conditional GAN that is split U-shaped between devices and a server (HuSCF-GAN, arXiv 2507.12979)."""

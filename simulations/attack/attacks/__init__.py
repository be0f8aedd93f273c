"""The attacks of this package, a module each: a module here with an ATTACK is one, and is listed nowhere else."""

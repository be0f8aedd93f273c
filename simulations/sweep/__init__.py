"""Many runs, each once."""

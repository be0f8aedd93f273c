"""What everything rests on: errors, random streams, atomic files, progress, and where networks run."""

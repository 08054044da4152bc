"""What the operating system gives: locks on files, having them on the disk, worker processes."""

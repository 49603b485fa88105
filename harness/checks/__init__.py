"""What is proved before a test is spent; each file is one kind of check."""

"""Pages for people: sessions, their steps, tests and files, in a browser."""

"""One file for each version of the database, in order; a released one is never changed."""

"""What a confined process loads at its start to keep a record; never imported by the harness."""

"""The pieces of contract.py: what is examined, how it is called and what must hold."""

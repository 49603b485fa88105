"""The commands of the terminal, a module for those that belong together; `app` holds them."""

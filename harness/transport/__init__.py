"""The folder that every role finds on its path; its one module stands alone."""

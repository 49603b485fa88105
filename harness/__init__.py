"""Research tasks for language-model agents: locked files, real tests, trustworthy scores."""

"""What mkdocs generates from the code when it builds the site."""

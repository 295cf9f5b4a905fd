"""One script a question; JSON out. May import any room."""

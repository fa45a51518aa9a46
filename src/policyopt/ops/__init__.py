"""Pure tensor functions that several axes share. They import nothing of ours but the records."""

"""What people read: the printed objective, cards of methods, listings. Everything is a function of records."""

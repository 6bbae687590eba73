"""What optimising is worth, on data with labels."""

"""From a source to a proven version: import, train, passes, quality, speed."""

"""What each task takes and gives: pure functions over texts and arrays, one file per task."""

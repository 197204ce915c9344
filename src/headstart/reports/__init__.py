"""What people look at: figures and pages, made from arrays and results, wherever those come from."""

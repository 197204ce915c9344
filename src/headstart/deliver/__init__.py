"""What a run becomes for others: plots, report, submission, export, serving."""

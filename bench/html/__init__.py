"""`python -m bench report RESULTS…`: one HTML page that needs nothing else, its tables as CSV, and a PDF."""

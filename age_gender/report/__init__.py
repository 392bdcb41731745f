"""What is measured, the plots, the page with its template and style sheet; the LFW check."""

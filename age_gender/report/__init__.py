"""The report: what is measured, the plots, the page with its template and style sheet; LFW."""

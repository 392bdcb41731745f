"""What the five scripts share: tables, scoring, photographs, the report, and what they stand on."""

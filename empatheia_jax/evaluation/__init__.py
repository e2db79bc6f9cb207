"""Section 6 and appendix E.3: the paper's metrics, and the report page."""

"""From result files and audits to tables, plots and a page; the script is report.py."""

"""The page that shows a record: ``page`` fills in ``page.html`` and what it needs."""

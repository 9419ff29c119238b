"""REST for operators, under ``/v1``. The only room that knows FastAPI."""

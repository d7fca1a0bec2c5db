"""PostgreSQL, with the drivers asyncpg and psycopg."""

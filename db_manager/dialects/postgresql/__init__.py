"""PostgreSQL, by asyncpg and psycopg."""

"""The lanes of a unit: SQLAlchemy's session and connection, without ending the transaction."""

"""The lanes of a unit: what SQLAlchemy and the driver offer, without the ends."""

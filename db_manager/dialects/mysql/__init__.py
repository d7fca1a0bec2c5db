"""MariaDB and MySQL, with the driver asyncmy."""

"""The HTTP endpoint for scrapers and orchestrators; needs aiohttp."""

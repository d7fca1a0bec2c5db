"""What a scraper and an orchestrator ask over HTTP; needs aiohttp."""

"""The bridge to aiogram: who handles what, which updates are in flight, start and stop in order.

With the test kit it is all of `lifecycle` that imports aiogram. Outside of this package only the
names below are imported, and for the test kit `traffic.find_traffic`.
"""

from lifecycle.bot.dispatcher import attach, include_data, include_router, is_draining
from lifecycle.bot.polling import run_polling

__all__ = ["attach", "include_data", "include_router", "is_draining", "run_polling"]

"""What a bot answers to people, and asks them for: presses, inline queries, payments."""

from typing import Final

from lifecycle.testing.telegram.answers import Query
from lifecycle.testing.telegram.calls import ApiCall
from lifecycle.testing.telegram.http.refusals import RefusedError
from lifecycle.testing.telegram.methods.content import invoice
from lifecycle.testing.telegram.methods.messages import Messages

_TOO_OLD: Final = (
    "Bad Request: query is too old and response timeout expired or query ID is invalid"
)


class Asking(Messages):
    """The methods that answer queries and make links of invoices."""

    def _keep_answer(self, call: ApiCall, kind: str, number: object) -> None:
        """Keep what the bot answers to a query, which it may do once.

        Raises:
            RefusedError: There is no such query, or it was answered.
        """
        query = self._queries.get(str(number), Query(""))
        if query.kind != kind or query.answer is not None:
            raise RefusedError(400, _TOO_OLD)
        query.answer = call.params

    def _answer_callback_query(self, call: ApiCall) -> bool:
        self._keep_answer(call, "callback_query", call.params.get("callback_query_id"))
        self.log("bot", f"<notice> {call.params.get('text', '')}".rstrip())
        return True

    def _answer_inline_query(self, call: ApiCall) -> bool:
        self._keep_answer(call, "inline_query", call.params.get("inline_query_id"))
        self.log("bot", f"<offers> {len(call.params.get('results', []))} results")
        return True

    def _answer_pre_checkout_query(self, call: ApiCall) -> bool:
        agrees = call.params.get("ok") is True
        error = call.params.get("error_message", "")
        if not agrees and not error:
            raise RefusedError(400, "Bad Request: error_message must be specified")
        self._keep_answer(call, "pre_checkout_query", call.params.get("pre_checkout_query_id"))
        self.log("bot", "<payment> agrees" if agrees else f"<payment> refuses: {error}")
        return True

    def _create_invoice_link(self, call: ApiCall) -> str:
        invoice(call.params)
        link = f"https://t.me/$local{len(self.invoices) + 1}"
        self.invoices[link] = call.params
        return link

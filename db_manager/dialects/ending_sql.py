"""Recognises SQL that ends a transaction, or replaces it with a new one."""

import re
from functools import lru_cache
from typing import Final

# Every repetition is possessive, so that what has matched as a comment is never matched again. With
# backtracking, each further comment doubles the time, and words inside comments are found.
_LINE: Final = r"(?:--|\#)[^\n\r]*+[\n\r]"
_COMMENT: Final = r"/\*(?:[^*]++|\*(?!/))*+\*/"
#: Blanks and comments before a statement, in the syntax that all databases share.
BLANKS: Final = r"(?:\s++|--[^\n\r]*+\r?\n|/\*(?:[^*/]++|\*(?!/)|/(?!\*))*+\*/)*+"


def _nested(depth: int) -> str:
    inner = f"|{_nested(depth - 1)}" if depth else ""
    return rf"/\*(?:[^*/]++|\*(?!/)|/(?!\*){inner})*+\*/"


#: The same in the syntax of MariaDB, SQLite or PostgreSQL: MariaDB executes a comment that begins
#: with an exclamation mark, PostgreSQL nests comments, and line ends differ.
_BEFORE: Final = rf"""(?: (?:[\s;]++|/\*M?!\d*+|\*/|{_COMMENT}|{_LINE})*+
    | (?:[\s;]++|{_COMMENT}|{_LINE})*+ | (?:[\s;]++|{_nested(3)}|{_LINE})*+ )"""
#: Between two words of a statement.
_GAP: Final = rf"(?:(?:\s|/\*M?!\d*+|\*/|{_COMMENT}|{_LINE})++)"
_TEXT: Final = r"""'(?:[^'\\]++|\\.|'')*+'|"(?:[^"\\]++|\\.|"")*+\""""
#: MariaDB's prefix with settings for the statement that follows.
_FOR_ONE: Final = rf"(?:SET{_GAP}STATEMENT\b(?:{_TEXT}|[^'\"])*?\bFOR\b{_GAP})?+"
_BEGIN: Final = _BEFORE + _FOR_ONE


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.VERBOSE | re.DOTALL)


#: SAVEPOINT, RELEASE and ROLLBACK TO do not end a transaction.
_ENDS: Final = _compile(
    rf"""{_BEGIN}
    (?: (?P<COMMIT>COMMIT) | (?P<END>END) | (?P<ABORT>ABORT) | (?P<BEGIN>BEGIN) | (?P<XA>XA)
    | (?P<START_TRANSACTION> START{_GAP}TRANSACTION )
    | (?P<PREPARE_TRANSACTION> PREPARE{_GAP}TRANSACTION )
    | (?P<LOCK_TABLES> LOCK{_GAP}TABLES ) | (?P<SET>SET)
    | (?P<ROLLBACK> ROLLBACK (?! (?:{_GAP}(?:WORK|TRANSACTION))?+ {_GAP} TO\b ) ) )\b"""
)
#: An assignment to MariaDB's variable, in a SET whose string literals were removed.
_AUTOCOMMIT: Final = _compile(
    rf"""(?:\bSET\b|,){_BEFORE} (?:(?:SESSION|LOCAL){_GAP}|@@(?:(?:SESSION|LOCAL)\s*+\.)?)?
    \s*+`?AUTOCOMMIT`?{_BEFORE}:?="""
)
#: The words that end a transaction on every database; BEGIN does so on MariaDB only.
ENDS: Final = frozenset({"COMMIT", "END", "ABORT", "ROLLBACK", "PREPARE TRANSACTION"})
#: A statement that writes nothing if no transaction has begun; it may begin one.
_WRITES_NOTHING: Final = _compile(
    rf"""{_BEGIN}
    (?: BEGIN | START{_GAP}TRANSACTION | SELECT | VALUES | TABLE | SHOW | EXPLAIN
    | SET | RESET | LISTEN | UNLISTEN )\b [^;]*+ ;?+ \s*+ \Z"""
)
#: A statement that PostgreSQL always refuses, so that the transaction is aborted. The name of the
#: savepoint is an explanation for the server's log.
ABORT_TRANSACTION: Final = 'RELEASE SAVEPOINT "a statement failed before it was sent"'
#: A statement before which MariaDB commits the open transaction, even if the statement fails.
_COMMITS_FIRST: Final = _compile(
    rf"""{_BEGIN}
    (?: CREATE (?! {_GAP} (?:OR{_GAP}REPLACE{_GAP})?+ TEMPORARY ) | DROP (?! {_GAP} TEMPORARY )
    | ALTER | RENAME | TRUNCATE | GRANT | REVOKE | LOCK | UNLOCK | OPTIMIZE | REPAIR | CHECK
    | ANALYZE{_GAP} (?:(?:NO_WRITE_TO_BINLOG|LOCAL){_GAP})?+ TABLES?
    | CACHE | FLUSH | INSTALL | UNINSTALL | RESET | LOAD{_GAP}INDEX | SET{_GAP}PASSWORD )\b"""
)
#: A statement whose effect is permanent at once, in or outside a transaction.
_STAYS: Final = _compile(
    rf"""{_BEGIN}
    (?: CREATE | DROP | ALTER | RENAME | TRUNCATE | GRANT | REVOKE | INSTALL | UNINSTALL
    | SET{_GAP}PASSWORD )\b"""
)
#: A statement on several objects, which keeps its effect on the first if a later one fails.
_STAYS_IN_PART: Final = _compile(
    rf"""{_BEGIN}
    (?: DROP | RENAME | GRANT | REVOKE
    | (?:CREATE|ALTER) {_GAP} (?:OR{_GAP}REPLACE{_GAP})?+ (?:USER|ROLE) )\b [^,]*+ ,"""
)
#: A statement that may run any others, so it may end a transaction and then fail.
_RUNS_OTHERS: Final = _compile(
    rf"""{_BEGIN} (?:\w++ \s*+ : {_GAP}?+)?+
    (?: CALL | EXECUTE | BEGIN{_GAP}NOT | IF | CASE | LOOP | WHILE | REPEAT | FOR )\b"""
)
#: The parts of a script that contain no statements: quoted strings, names and bodies, comments.
_QUOTED: Final = _compile(
    rf"""{_nested(3)} | --[^\n\r]*+ | \bE'(?:[^'\\]++|\\.|'')*+' | '[^']*+' | "[^"]*+"
    | (?<!\w)\$(?P<tag>\w*+)\$.*?\$(?P=tag)\$"""
)
_QUOTED_MARIADB: Final = _compile(rf"{_COMMENT} | (?:--\s|\#)[^\n]*+ | {_TEXT} | `[^`]*+`")
#: The beginning of an unquoted function body in PostgreSQL, which has an END of its own.
_ATOMIC: Final = _compile(r"\bBEGIN\s++ATOMIC\b")


@lru_cache(maxsize=512)  # a program repeats the same few statements
def ending(sql: str) -> str:
    """Return the word with which *sql* ends a transaction, such as `COMMIT`; empty if it does not.

    Only the first statement of a script is examined.

    Args:
        sql: Any statement.
    """
    found = _ENDS.match(sql)
    if found is None or found.lastgroup is None:
        return ""
    if found.lastgroup == "SET":
        return "SET AUTOCOMMIT" if _AUTOCOMMIT.search(re.sub(_TEXT, "''", sql)) else ""
    return found.lastgroup.replace("_", " ")


@lru_cache(maxsize=512)
def ends_later(sql: str, *, mariadb: bool = False) -> bool:
    """Return True if a statement of the script *sql*, other than the first, ends a transaction.

    Args:
        sql: Statements that are sent together.
        mariadb: Use MariaDB's quotes, and its additional statements that end a transaction.
    """
    if ";" not in sql:
        return False
    bare = (_QUOTED_MARIADB if mariadb else _QUOTED).sub(" ", sql)
    words = {ending(part) for part in bare.split(";")[1:]}
    if mariadb:  # there END only closes a compound statement
        return bool(words - {"", "END"})
    return bool(words & (ENDS - {"END"} if _ATOMIC.search(bare) else ENDS))


@lru_cache(maxsize=512)
def commits_itself(sql: str) -> bool:
    """Return True if *sql* may write; outside a transaction PostgreSQL then commits it at once.

    Args:
        sql: Any statement, or several.
    """
    return _WRITES_NOTHING.match(sql) is None


def commits_first(sql: str) -> bool:
    """Return True if MariaDB commits the open transaction before it runs *sql*, such as DDL.

    Args:
        sql: Any statement.
    """
    return _COMMITS_FIRST.match(sql) is not None


def stays(sql: str, *, failed: bool = False) -> bool:
    """Return True if MariaDB cannot roll *sql* back, because it is DDL or the like.

    Args:
        sql: Any statement.
        failed: The statement failed: return True only if it may have taken effect in part.
    """
    return (_STAYS_IN_PART if failed else _STAYS).match(sql) is not None


def runs_others(sql: str) -> bool:
    """Return True if *sql* runs other statements on MariaDB, for example those of a procedure.

    Args:
        sql: Any statement.
    """
    return _RUNS_OTHERS.match(sql) is not None

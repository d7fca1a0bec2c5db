"""Plain SQL that ends a transaction, or begins another one in its place."""

import re
from functools import lru_cache
from typing import Final

# Every repetition is possessive: what was once taken for a comment is not looked at again. A
# pattern that may go back takes twice the time with each further comment, and finds words in them.
_LINE: Final = r"(?:--|\#)[^\n\r]*+[\n\r]"
_COMMENT: Final = r"/\*(?:[^*]++|\*(?!/))*+\*/"
#: Blanks and comments before a statement, as every database understands them.
BLANKS: Final = r"(?:\s++|--[^\n\r]*+\r?\n|/\*(?:[^*/]++|\*(?!/)|/(?!\*))*+\*/)*+"


def _nested(depth: int) -> str:
    inner = f"|{_nested(depth - 1)}" if depth else ""
    return rf"/\*(?:[^*/]++|\*(?!/)|/(?!\*){inner})*+\*/"


#: As MariaDB, SQLite and PostgreSQL understand them: the first executes what stands in a comment
#: with an exclamation mark, the last nests comments, and each has its own end of a line.
_BEFORE: Final = rf"""(?: (?:[\s;]++|/\*M?!\d*+|\*/|{_COMMENT}|{_LINE})*+
    | (?:[\s;]++|{_COMMENT}|{_LINE})*+ | (?:[\s;]++|{_nested(3)}|{_LINE})*+ )"""
#: Between two words of a statement.
_GAP: Final = rf"(?:(?:\s|/\*M?!\d*+|\*/|{_COMMENT}|{_LINE})++)"
_TEXT: Final = r"""'(?:[^'\\]++|\\.|'')*+'|"(?:[^"\\]++|\\.|"")*+\""""
#: MariaDB's settings for one statement, which follows.
_FOR_ONE: Final = rf"(?:SET{_GAP}STATEMENT\b(?:{_TEXT}|[^'\"])*?\bFOR\b{_GAP})?+"
_BEGIN: Final = _BEFORE + _FOR_ONE


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.VERBOSE | re.DOTALL)


#: Parts of a transaction (SAVEPOINT, RELEASE, ROLLBACK TO) end nothing.
_ENDS: Final = _compile(
    rf"""{_BEGIN}
    (?: (?P<COMMIT>COMMIT) | (?P<END>END) | (?P<ABORT>ABORT) | (?P<BEGIN>BEGIN) | (?P<XA>XA)
    | (?P<START_TRANSACTION> START{_GAP}TRANSACTION )
    | (?P<PREPARE_TRANSACTION> PREPARE{_GAP}TRANSACTION )
    | (?P<LOCK_TABLES> LOCK{_GAP}TABLES ) | (?P<SET>SET)
    | (?P<ROLLBACK> ROLLBACK (?! (?:{_GAP}(?:WORK|TRANSACTION))?+ {_GAP} TO\b ) ) )\b"""
)
#: MariaDB's variable, in the list of a SET that has no texts any more.
_AUTOCOMMIT: Final = _compile(
    rf"""(?:\bSET\b|,){_BEFORE} (?:(?:SESSION|LOCAL){_GAP}|@@(?:(?:SESSION|LOCAL)\s*+\.)?)?
    \s*+`?AUTOCOMMIT`?{_BEFORE}:?="""
)
#: What ends a transaction on every database; BEGIN does so on MariaDB alone.
ENDS: Final = frozenset({"COMMIT", "END", "ABORT", "ROLLBACK", "PREPARE TRANSACTION"})
#: What does not write when no transaction is begun; each may begin one, too.
_WRITES_NOTHING: Final = _compile(
    rf"""{_BEGIN}
    (?: BEGIN | START{_GAP}TRANSACTION | SELECT | VALUES | TABLE | SHOW | EXPLAIN
    | SET | RESET | LISTEN | UNLISTEN )\b [^;]*+ ;?+ \s*+ \Z"""
)
#: What PostgreSQL refuses in every transaction, in words for its log; nothing is committed then.
SPOIL: Final = 'RELEASE SAVEPOINT "a statement failed before it was sent"'
#: What commits the transaction before it, on MariaDB, and also when it fails itself.
_COMMITS_FIRST: Final = _compile(
    rf"""{_BEGIN}
    (?: CREATE (?! {_GAP} (?:OR{_GAP}REPLACE{_GAP})?+ TEMPORARY ) | DROP (?! {_GAP} TEMPORARY )
    | ALTER | RENAME | TRUNCATE | GRANT | REVOKE | LOCK | UNLOCK | OPTIMIZE | REPAIR | CHECK
    | ANALYZE{_GAP} (?:(?:NO_WRITE_TO_BINLOG|LOCAL){_GAP})?+ TABLES?
    | CACHE | FLUSH | INSTALL | UNINSTALL | RESET | LOAD{_GAP}INDEX | SET{_GAP}PASSWORD )\b"""
)
#: What is there at once and for good, whether a transaction was begun or not.
_STAYS: Final = _compile(
    rf"""{_BEGIN}
    (?: CREATE | DROP | ALTER | RENAME | TRUNCATE | GRANT | REVOKE | INSTALL | UNINSTALL
    | SET{_GAP}PASSWORD )\b"""
)
#: What does several things one after the other, and keeps the first ones when a later one fails.
_STAYS_IN_PART: Final = _compile(
    rf"""{_BEGIN}
    (?: DROP | RENAME | GRANT | REVOKE
    | (?:CREATE|ALTER) {_GAP} (?:OR{_GAP}REPLACE{_GAP})?+ (?:USER|ROLE) )\b [^,]*+ ,"""
)
#: What may run anything, and so end a transaction and fail afterwards.
_RUNS_OTHERS: Final = _compile(
    rf"""{_BEGIN} (?:\w++ \s*+ : {_GAP}?+)?+
    (?: CALL | EXECUTE | BEGIN{_GAP}NOT | IF | CASE | LOOP | WHILE | REPEAT | FOR )\b"""
)
#: What no statement of a script stands in: texts, names and bodies in quotes, and comments.
_QUOTED: Final = _compile(
    rf"""{_nested(3)} | --[^\n\r]*+ | \bE'(?:[^'\\]++|\\.|'')*+' | '[^']*+' | "[^"]*+"
    | (?<!\w)\$(?P<tag>\w*+)\$.*?\$(?P=tag)\$"""
)
_QUOTED_MARIADB: Final = _compile(rf"{_COMMENT} | (?:--\s|\#)[^\n]*+ | {_TEXT} | `[^`]*+`")
#: A body of PostgreSQL's that stands in no quotes, and has an END of its own.
_ATOMIC: Final = _compile(r"\bBEGIN\s++ATOMIC\b")


@lru_cache(maxsize=512)  # the same few statements, again and again
def ending(sql: str) -> str:
    """Return the word in *sql* that ends a transaction, as `COMMIT`; empty when it ends none.

    Of a script of several statements only the first one is looked at.

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
    """Return True when a later statement of the script *sql* ends a transaction.

    Args:
        sql: Statements that are sent as one text.
        mariadb: It has other quotes, and more statements that end a transaction.
    """
    if ";" not in sql:
        return False
    bare = (_QUOTED_MARIADB if mariadb else _QUOTED).sub(" ", sql)
    words = {ending(part) for part in bare.split(";")[1:]}
    if mariadb:  # there END is of a compound statement only
        return bool(words - {"", "END"})
    return bool(words & (ENDS - {"END"} if _ATOMIC.search(bare) else ENDS))


@lru_cache(maxsize=512)
def commits_itself(sql: str) -> bool:
    """Return True when *sql* may write, which PostgreSQL commits where no transaction is begun.

    Args:
        sql: Any statement, or several.
    """
    return _WRITES_NOTHING.match(sql) is None


def commits_first(sql: str) -> bool:
    """Return True when *sql* commits on MariaDB what was before it, as DDL does.

    Args:
        sql: Any statement.
    """
    return _COMMITS_FIRST.match(sql) is not None


def stays(sql: str, *, failed: bool = False) -> bool:
    """Return True when a ROLLBACK on MariaDB does not undo *sql*, as DDL.

    Args:
        sql: Any statement that `commits_first`.
        failed: The server refused it: then only a part of it may be there.
    """
    return (_STAYS_IN_PART if failed else _STAYS).match(sql) is not None


def runs_others(sql: str) -> bool:
    """Return True when *sql* runs other statements on MariaDB, of a procedure for example.

    Args:
        sql: Any statement.
    """
    return _RUNS_OTHERS.match(sql) is not None

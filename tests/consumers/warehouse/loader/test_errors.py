"""Classification of ClickHouse's errors."""

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from consumers.warehouse.errors import RowsRejected, ServerTrouble, TableTrouble, insert_error, query_error
from infra.errors import ConfigError


def error(code: int | None, text: str) -> DatabaseError:
    """An error as clickhouse-connect raises it."""
    exception = DatabaseError(text)
    if code is not None:
        exception.code = code
    return exception


@pytest.mark.parametrize("code", [75, 76, 159, 164, 202, 209, 241, 242, 243, 252, 319, 425, 999, 1000, 1002])
def test_trouble_of_the_server_waits_and_names_it(code: int) -> None:
    """Errors of disk, memory, queries, parts and network are the server's, in inserts and in queries alike."""
    for meaning in (insert_error, query_error):
        trouble = meaning(error(code, f"Code: {code}. DB::Exception: secret value. (SOME_NAME) (version 26.9)"))
        assert isinstance(trouble, ServerTrouble)
        assert trouble.service == "clickhouse"
        assert f"code {code} SOME_NAME" in str(trouble)
        assert "secret" not in str(trouble)


def test_no_answer_is_the_servers_trouble() -> None:
    """An error without a code is a broken connection."""
    assert isinstance(insert_error(error(None, "connection reset")), ServerTrouble)


@pytest.mark.parametrize("code", [6, 27, 33, 53, 70, 117, 349, 1001])
def test_data_is_suspected_in_inserts_alone(code: int) -> None:
    """The same code in a query blames no row."""
    assert isinstance(insert_error(error(code, "x")), RowsRejected)
    assert isinstance(query_error(error(code, "x")), TableTrouble)


@pytest.mark.parametrize("code", [16, 47, 60, 395, 469, 4242])
def test_whatever_else_stops_the_table_alone(code: int) -> None:
    """An unknown code ends no process and writes no dead letter."""
    trouble = insert_error(error(code, f"Code: {code}. DB::Exception: value 'anna@example.com'"))
    assert isinstance(trouble, TableTrouble)
    assert "anna" not in str(trouble)


def test_a_constraint_is_named_and_its_values_are_not() -> None:
    """The message names the constraint that is to be dropped."""
    text = "Code: 469. DB::Exception: Constraint `few` for table h.e (uuid) is violated at row 1. Column values: a = 11. (X)"
    trouble = insert_error(error(469, text))
    assert isinstance(trouble, TableTrouble)
    assert "DROP CONSTRAINT few" in str(trouble)
    assert "11" not in str(trouble)


@pytest.mark.parametrize("code", [192, 193, 194, 516])
def test_credentials_are_the_users_to_mend(code: int) -> None:
    """The message names the setting."""
    assert isinstance(insert_error(error(code, "x")), ConfigError)

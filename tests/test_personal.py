import subprocess
import sys

import pytest

from ragtune.dataset.checks.personal import personal_data


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Write to jane.doe@example.org for a key.", "email address"),
        ("Reach us at joe@mail.example.co.uk.", "email address"),
        ("Pay with 4111 1111 1111 1111 today.", "credit card"),
        ("Pay with 5500005555555559 today.", "credit card"),
        ("The account is DE89 3704 0044 0532 0130 00.", "iban code"),
        ("Call +49 30 901820 before noon.", "phone number"),
        ("Call (212) 555-2368 before noon.", "phone number"),
        ("Call 020 7946 0958 before noon.", "phone number"),
        ("Her number is 536-90-4399.", "us ssn"),
        ("Send it to 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa now.", "crypto"),
        ("The key is sk-proj-abcdefghijklmnop1234.", "secret"),
        ("Set AKIAIOSFODNN7EXAMPLE in the shell.", "secret"),
        ("-----BEGIN RSA PRIVATE KEY-----", "secret"),
    ],
)
def test_personal_data_and_secrets_are_found_and_named(text, kind):
    assert personal_data(text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "The decorator @dagster.asset makes one.",
        "Passes `name@version` to the resolver.",
        "The card 4111 1111 1111 1112 has a wrong digit.",
        "The account DE89 3704 0044 0532 0130 01 has a wrong digit.",
        "At most 2147483647 rows, or 4294967295.",
        "From 2022-03-12-00 until 2022-03-13-00.",
        "It was 2023-01-02 03:04:05.123456 then.",
        "Port 8080 of 192.168.10.12 answers.",
        "Version 1.26.3.20240115 and 3.14159265358979.",
        "The hash 1234567890abcdef1234567890abcdef names it.",
        "The default of `seed` is 20240229.",
        "sk-learn and pk_columns are names.",
    ],
)
def test_numbers_and_names_of_documentation_are_not_personal_data(text):
    assert personal_data(text) == ""


SCRIPT = """
import sys
from ragtune.dataset.checks.personal import personal_data
assert personal_data("What does `dagster.asset` do on port 8080 in 2024?") == ""
assert "presidio_analyzer" not in sys.modules
"""


def test_a_text_without_long_numbers_does_not_load_presidio():
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=60)

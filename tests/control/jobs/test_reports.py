"""What a host's answer changes."""

from __future__ import annotations

from tests.fakes.service import Service, specs


def test_a_change_of_the_size_of_rows_is_an_event_and_shows(service: Service) -> None:
    service.submit(specs(2, steps=20))
    service.tick(3)
    assert "row_size" not in service.kinds()
    service.launched[0].row_tokens, service.launched[0].row_why = 768, "in rows of 1,536 a token takes 9% more"
    service.tick(2)
    events = [e for e in service.database.events() if e.kind == "row_size"]
    assert [(e.host, e.detail) for e in events] == [("h-0", "768 tokens: in rows of 1,536 a token takes 9% more")]
    shown = {h.id: (h.row_tokens, h.row_why) for h in service.control.hosts()}
    assert shown == {"h-0": (768, "in rows of 1,536 a token takes 9% more"), "h-1": (1536, "what memory allows")}

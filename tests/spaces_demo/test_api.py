"""The endpoints, through the client that strangers use, and as tools of an agent."""

import asyncio
import base64
import json
import urllib.request

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from .test_uploads import archive, png, write

ENDPOINTS = {
    "find_items",
    "recommend",
    "recommend_for_picture",
    "why",
    "what_it_looked_at",
    "search",
    "select",
    "add_items",
    "forget_items",
}


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def test_every_action_is_an_endpoint_with_words_and_an_mcp_tool(client, address):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {f"/{name}" for name in ENDPOINTS}
    pytest.importorskip("mcp", reason="the MCP server needs the package `mcp`")
    with urllib.request.urlopen(f"{address}gradio_api/mcp/schema") as answer:
        tools = {tool["name"]: tool for tool in json.load(answer)}
    assert set(tools) == ENDPOINTS
    for tool in tools.values():
        assert len(tool["description"]) > 30
        assert all(field.get("description") for field in tool["inputSchema"]["properties"].values())


def test_an_agent_calls_the_tools_files_included(address):
    mcp = pytest.importorskip("mcp", reason="the MCP server needs the package `mcp`")
    from mcp.client.streamable_http import streamable_http_client

    def data(kind, content):
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"

    calls = [
        ("recommend", {"history": ["hat"], "top_k": 2}),
        ("recommend_for_picture", {"picture": data("image/png", png()), "title": "Scarf", "history": ["hat"]}),
        ("recommend_for_picture", {"title": "Green scarf"}),
        ("add_items", {"file": data("text/csv", b"title\nRed scarf\n")}),
    ]

    async def call():
        to = streamable_http_client(f"{address}gradio_api/mcp/")
        async with to as streams, mcp.ClientSession(*streams[:2]) as session:
            await session.initialize()
            return [await session.call_tool(name, arguments) for name, arguments in calls]

    answers = asyncio.run(call())
    assert not [answer.content for answer in answers if answer.isError]
    assert "Red scarf" in answers[-1].content[0].text


def test_recommend_is_what_the_pipeline_answers(client, shop):
    answers = client.predict(["shirt", "hat"], 3, api_name="/recommend")
    expected = shop.ask("recommend", {"history": ["shirt", "hat"]}, top_k=3)
    assert [answer["item_id"] for answer in answers] == [answer["item_id"] for answer in expected]
    assert answers[0]["score"] == pytest.approx(expected[0]["score"], abs=1e-4)
    blind = client.predict(["shirt", "hat"], 3, True, api_name="/recommend")
    assert blind[0]["score"] != pytest.approx(answers[0]["score"], abs=1e-4)


def test_the_other_requests(client):
    assert [item["item_id"] for item in client.predict("coat", api_name="/find_items")] == ["coat"]
    assert set(client.predict(["shirt"], "hat", api_name="/why")) == {"rating", "explanation"}
    looked = client.predict(["hat", "coat"], api_name="/what_it_looked_at")
    assert [entry["item_id"] for entry in looked["looked_at"]] == ["hat"]
    found = client.predict("warm", ["hat"], 2, api_name="/search")
    assert [len(found[side]) for side in ("for_anyone", "for_this_person")] == [2, 2]
    assert found["for_anyone"] != found["for_this_person"]
    chosen = client.predict(["hat"], ["coat", "belt"], api_name="/select")
    assert set(chosen["chosen"]) <= {"coat", "belt"}


def test_a_picture_of_something_unknown(client, tmp_path):
    picture = handle_file(write(tmp_path / "scarf.png", png()))
    answers = client.predict(picture, "Green scarf", ["hat"], api_name="/recommend_for_picture")
    assert len(answers) == 7  # all but the hat
    plain = client.predict(["hat"], api_name="/recommend")
    assert answers[0]["score"] != pytest.approx(plain[0]["score"], abs=1e-4)


def test_own_items_are_known_by_their_key_alone(client, address, tmp_path):
    file = handle_file(archive(tmp_path / "mine.zip", {"a.csv": "title\n<b>Secret</b> coat\n"}))
    added = client.predict(file, api_name="/add_items")
    assert [item["item_id"] for item in added["items"]] == ["yours-1"]
    mine = client.predict("secret", 5, added["catalogue"], api_name="/find_items")
    assert [item["title"] for item in mine] == ["<b>Secret</b> coat"]
    ids = [answer["item_id"] for answer in client.predict([], 50, False, added["catalogue"], api_name="/recommend")]
    assert "yours-1" in ids
    stranger = Client(address, verbose=False)
    assert stranger.predict("secret", api_name="/find_items") == []
    with pytest.raises(AppError, match="not known"):
        stranger.predict("", 5, "guessed", api_name="/find_items")
    assert client.predict(added["catalogue"], api_name="/forget_items") is True
    with pytest.raises(AppError, match="not known"):
        client.predict("", 5, added["catalogue"], api_name="/find_items")


@pytest.mark.parametrize(
    ("arguments", "endpoint", "message"),
    [
        ((["<script>"],), "recommend", "no item"),
        (("hat",), "recommend", "must be a list"),
        ((["hat"] * 41,), "recommend", "at most 40"),
        (([["hat"]],), "recommend", "must be item ids"),
        ((["hat"], 0), "recommend", "from 1 to 50"),
        ((["hat"], 10**9), "recommend", "from 1 to 50"),
        ((["hat"], "shirtt"), "why", "no item"),
        (([],), "what_it_looked_at", "history"),
        (("",), "search", "query"),
        ((["hat"], ["coat"]), "select", "two to ten"),
        ((["hat"], ["coat", "coat"]), "select", "different"),
        ((None,), "add_items", "no item"),
    ],
)
def test_wrong_requests_are_told(client, arguments, endpoint, message):
    with pytest.raises(AppError, match=message) as error:
        client.predict(*arguments, api_name=f"/{endpoint}")
    assert not set("<>&") & set(str(error.value))  # neither markup nor what would stand for it


def call(address, endpoint, *arguments):
    """As the client does it, but that nothing is uploaded first."""
    url = f"{address}gradio_api/call/{endpoint}"
    request = urllib.request.Request(
        url, json.dumps({"data": arguments}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        number = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{url}/{number}") as answer:
        return answer.read().decode()


def test_no_file_of_the_server_is_read(address, tmp_path):
    secret = write(tmp_path / "secret.png", png())
    named = {"path": secret, "meta": {"_type": "gradio.FileData"}}
    assert "event: complete" in call(address, "recommend_for_picture", None, "Green scarf", [])
    for endpoint, arguments in (("recommend_for_picture", [named, "x", []]), ("add_items", [named])):
        assert "event: error" in call(address, endpoint, *arguments)


def test_a_shelf_forgets_the_oldest(monkeypatch, shop):
    from unimp.spaces_demo import api

    monkeypatch.setattr(api, "MAX_SHOPS", 2)
    shelf = api.Shelf()
    keys = [shelf.put(shop) for _ in range(3)]
    assert len(set(keys)) == 3
    assert shelf.get(keys[2]) is shop
    with pytest.raises(ValueError, match="not known"):
        shelf.get(keys[0])
    monkeypatch.setattr(api, "SECONDS_KEPT", -1)
    with pytest.raises(ValueError, match="not known"):
        shelf.get(keys[2])

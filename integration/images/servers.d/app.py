"""The same answer as a WSGI, an ASGI and a Flask application."""


def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"python answers"]


application = wsgi


async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"python answers"})


def flask():
    from flask import Flask

    app = Flask("answers")
    app.add_url_rule("/", "answer", lambda: "flask answers")
    return app

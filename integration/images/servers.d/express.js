const app = require("/srv/node_modules/express")();
app.get("/", (request, response) => response.send("express answers"));
app.listen(3001, "127.0.0.1");

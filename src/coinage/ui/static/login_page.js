/** Let somebody in who knows the password. */

import { call } from "./api.js";
import { byId } from "./dom.js";
import { act } from "./notices.js";

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  act(byId("enter"), async () => {
    await call("POST", "/login", { password: byId("password").value });
    location.href = "/";
  });
});

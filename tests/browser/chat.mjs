// Drives the chat example's page in a real browser, as two people who meet in one room would.
//
//   node chat.mjs http://127.0.0.1:8787 [--screenshot DIR]
//
// The server must already be running. Each check prints one line; the first that fails ends the run with a non-zero
// exit. Nothing here sleeps: every step waits for a condition, and a condition that does not come true is a failure.
// Each run uses a room of its own, so a server that has seen earlier runs will do.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const CHROMIUM_FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
const STEP_MS_MAX = 15_000;
const DESKTOP = { width: 1100, height: 760 };
const PHONE = { width: 390, height: 780 };

const { values: options, positionals } = parseArgs({ allowPositionals: true, options: { screenshot: { type: "string" } } });
const [server] = positionals;
if (!server) {
  console.error("usage: node chat.mjs http://HOST:PORT [--screenshot DIR]");
  process.exit(2);
}

const room = `test-${randomBytes(6).toString("hex")}`;

async function check(sentence, body) {
  try {
    await body();
    console.log(`ok    ${sentence}`);
  } catch (error) {
    console.log(`FAIL  ${sentence}`);
    throw error;
  }
}

/** One person: a browser context of their own, with their own storage, in the given room. */
class Guest {
  static async join(browser, name, { inRoom = room, ...context } = {}) {
    const guest = new Guest();
    guest.name = name;
    guest.context = await browser.newContext({ viewport: DESKTOP, ...context });
    guest.context.setDefaultTimeout(STEP_MS_MAX);
    guest.page = await guest.context.newPage();
    guest.faults = [];
    guest.page.on("pageerror", (error) => guest.faults.push(String(error)));
    await guest.page.goto(`${server}/#${encodeURIComponent(inRoom)}`);
    await guest.state("open");
    await guest.set("#name", name);
    return guest;
  }

  state(state) {
    return this.page.locator(`#status[data-state=${state}]`).waitFor();
  }

  async set(field, value) {
    await this.page.fill(field, value);
    await this.page.press(field, "Enter");
  }

  async say(text) {
    await this.set("#composer", text);
  }

  /** The message whose text is exactly this; fails if there is none, or more than one. */
  async hears(text) {
    const message = this.page.locator(".message").filter({ has: this.page.locator(".body", { hasText: exactly(text) }) });
    await message.waitFor();
    return message;
  }

  async texts() {
    return this.page.locator(".message .body").allTextContents();
  }

  /** Waits until a predicate holds in the page. */
  until(predicate, argument) {
    return this.page.waitForFunction(predicate, argument);
  }
}

function exactly(text) {
  return new RegExp(`^${text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`);
}

async function conversation(browser) {
  let ada, ben;

  await check("two people join one fresh room and both are connected", async () => {
    ada = await Guest.join(browser, "Ada");
    ben = await Guest.join(browser, "Ben");
    assert.equal(await ada.page.inputValue("#room"), room);
    assert.deepEqual(await ben.texts(), []);
  });

  await check("what Ada sends, Ben sees, under her name", async () => {
    await ada.say("Is anybody home?");
    const message = await ben.hears("Is anybody home?");
    assert.equal(await message.locator(".author").textContent(), "Ada");
    assert.match(await message.getAttribute("data-id"), /^\d+$/);
  });

  await check("what Ben answers, Ada sees, under his name", async () => {
    await ben.say("Just us pigeons.");
    const message = await ada.hears("Just us pigeons.");
    assert.equal(await message.locator(".author").textContent(), "Ben");
  });

  await check("each sees their own messages marked, and only those", async () => {
    await ada.hears("Is anybody home?");
    assert.deepEqual(await ada.page.locator(".message.own .body").allTextContents(), ["Is anybody home?"]);
    assert.deepEqual(await ben.page.locator(".message.own .body").allTextContents(), ["Just us pigeons."]);
  });

  await check("a sent message leaves the composer empty and nothing on its way", async () => {
    await ada.until(() => document.querySelector("#composer").value === "" && document.querySelector("#sending").hidden);
  });

  await check("HTML in a message stays text, and an address becomes a link", async () => {
    const text = `<img src=x onerror="window.pwned = 1"><b>bold</b> https://example.org/a?b=1.`;
    await ada.say(text);
    const body = (await ben.hears(text)).locator(".body");
    assert.equal(await body.locator("img, b, script").count(), 0);
    assert.deepEqual(await body.locator("a").evaluateAll((links) => links.map((link) => link.href)), ["https://example.org/a?b=1"]);
    assert.equal(await ben.page.evaluate(() => window.pwned), undefined);
  });

  await check("Shift+Enter makes a new line and Enter sends both lines", async () => {
    await ben.page.fill("#composer", "one");
    await ben.page.press("#composer", "Shift+Enter");
    await ben.page.keyboard.type("two");
    await ben.page.press("#composer", "Enter");
    await ada.hears("one\ntwo");
  });

  await check("the Send button sends too", async () => {
    await ben.page.fill("#composer", "by button");
    await ben.page.click("#send");
    await ada.hears("by button");
  });

  await check("a message the server refuses is explained, and its text comes back", async () => {
    await ada.set("#name", "A".repeat(300));
    await ada.say("nobody should see this");
    await ada.page.locator("#error").waitFor();
    await ada.until(() => document.querySelector("#composer").value === "nobody should see this");
    await ada.set("#name", "Ada");
    await ada.page.fill("#composer", "");
  });

  await check("a message beyond 4096 bytes is explained, and its text stays", async () => {
    const long = "ü".repeat(2049);
    await ada.say(long);
    await ada.page.locator("#error", { hasText: "4096" }).waitFor();
    assert.equal(await ada.page.inputValue("#composer"), long);
    await ada.say("ü".repeat(2048));
    for (const guest of [ada, ben]) await guest.hears("ü".repeat(2048));
  });

  await check("a topic set by one is seen by the other", async () => {
    await ada.set("#topic", "News from the loft");
    await ben.until(() => document.querySelector("#topic").value === "News from the loft");
  });

  await check("the time to close an idle room can be set, and the other sees it", async () => {
    await ada.page.click("#open-settings");
    await ada.page.selectOption("#idle", { value: String(7 * 24 * 3_600_000) });
    await ada.page.click("#settings button[value=save]");
    await ada.page.locator("#settings").waitFor({ state: "hidden" });
    await ben.page.click("#open-settings");
    assert.equal(await ben.page.inputValue("#idle"), String(7 * 24 * 3_600_000));
    await ben.page.click("#settings button[value=cancel]");
  });

  await check("after a reload the history, the name and the topic are still there", async () => {
    const before = await ada.texts();
    await ada.page.reload();
    await ada.state("open");
    assert.deepEqual(await ada.texts(), before);
    assert.equal(await ada.page.inputValue("#name"), "Ada");
    assert.equal(await ada.page.inputValue("#topic"), "News from the loft");
  });

  await check("what was missed while offline appears once, in order, when the connection returns", async () => {
    await ada.context.setOffline(true);
    await ada.state("closed");
    await ben.say("while you were out");
    await ben.hears("while you were out");
    assert.equal((await ada.texts()).includes("while you were out"), false);
    await ada.context.setOffline(false);
    await ada.state("open");
    await ada.hears("while you were out");
    assert.deepEqual(await ada.texts(), await ben.texts());
  });

  await check("a message that cannot be sent gives its text back", async () => {
    await ada.context.setOffline(true);
    await ada.state("closed");
    await ada.say("into the void");
    await ada.until(() => document.querySelector("#composer").value === "into the void" && !document.querySelector("#error").hidden);
    await ada.context.setOffline(false);
    await ada.state("open");
    await ada.page.press("#composer", "Enter");
    await ben.hears("into the void");
  });

  await check("a reader further up is left in place and offered the new messages", async () => {
    await ada.page.setViewportSize({ width: 700, height: 420 });
    await ada.until(async () => {
      // A page that still has to follow its new size may scroll back once; two frames later it has settled.
      const scroller = document.querySelector("#scroller");
      scroller.scrollTo(0, 0);
      for (let frame = 0; frame < 2; frame++) await new Promise(requestAnimationFrame);
      return scroller.scrollTop === 0;
    });
    await ben.say("down here");
    await ada.page.locator("#newer").click();
    await ada.page.locator("#newer").waitFor({ state: "hidden" });
    await ada.until(() => {
      const { scrollHeight, scrollTop, clientHeight } = document.querySelector("#scroller");
      return scrollHeight - scrollTop - clientHeight < 2;
    });
    await ada.page.setViewportSize(DESKTOP);
  });

  await check("another room, with a name that needs escaping, is entered without a reload and is empty", async () => {
    await ada.page.evaluate(() => { window.sameDocument = true; });
    const other = `${room}/ä & 50%?#`;
    await ada.set("#room", other);
    await ada.until((name) => document.querySelector("#room").value === name && document.title.includes(name), other);
    await ada.state("open");
    assert.deepEqual(await ada.texts(), []);
    await ada.say("an echo");
    await ada.hears("an echo");
    await ada.page.goBack();
    await ada.hears("down here");
    assert.equal((await ada.texts()).includes("an echo"), false);
    assert.equal(await ada.page.evaluate(() => window.sameDocument), true);
  });

  await check("the pages raised no script errors", async () => {
    assert.deepEqual([...ada.faults, ...ben.faults], []);
  });

  await ada.context.close();
  await ben.context.close();
}

/** A small talk to look at, in a room of its own: desktop light and dark, and a phone. */
async function screenshots(browser, directory) {
  await mkdir(directory, { recursive: true });
  const inRoom = `loft-${randomBytes(2).toString("hex")}`;
  const looks = {
    "desktop-light": { colorScheme: "light", viewport: DESKTOP },
    "desktop-dark": { colorScheme: "dark", viewport: DESKTOP },
    "phone": { colorScheme: "light", viewport: PHONE, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
  };
  const talk = [
    ["Wren", "Good morning! Who has the key to the loft?"],
    ["Marten", "I do. I'm feeding at eight and at six this week."],
    ["Marten", "The ringed pair in the third row has two eggs, by the way."],
    ["Ada", "Lovely! I'll bring the small grain. The recipe we settled on is here: https://example.org/loft/grain"],
    ["Wren", "Thank you. Still to do before Sunday:\n– new hinge for the landing board\n– lime for the floor"],
    ["Ada", "Hinge is in my bag already."],
    ["Ada", "I can do the floor on Saturday if somebody holds the ladder."],
    ["Marten", "Count me in."],
  ];
  for (const [author, body] of talk) {
    const headers = { "content-type": "application/json" };
    await fetch(`${server}/rooms/${inRoom}/messages`, { method: "POST", headers, body: JSON.stringify({ author, body }) });
  }
  for (const [look, context] of Object.entries(looks)) {
    const guest = await Guest.join(browser, "Ada", { inRoom, ...context });
    await guest.set("#topic", "Feeding rota, and who has the key");
    await guest.hears("Count me in.");
    await guest.page.screenshot({ path: join(directory, `${look}.png`) });
    await guest.context.close();
    console.log(`saved ${look}.png`);
  }
}

const browser = await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_FLAGS });
try {
  await conversation(browser);
  if (options.screenshot) await screenshots(browser, options.screenshot);
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await browser.close();
}

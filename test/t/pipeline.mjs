// The page's example for pg: pipeline.mjs PAGE SOCKET_FOLDER DATABASE USER KEY. Prints the answers to KEY, to an unknown key, and to KEY again,
// in one round trip each.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [page, host, database, user, key] = process.argv.slice(2);
const { Client } = createRequire(`${process.env.APIKEYS_NODE_MODULES}/`)("pg");
const example = /^```js\n(.*?)^```/ms.exec(readFileSync(page, "utf8"))[1];
const { listOrders } = await import(`data:text/javascript,${encodeURIComponent(example)}`);

const db = new Client({ host, database, user, port: 5432, pipeline: true });
await db.connect();
for (const presented of [key, "ak_0000000000000000000000000000000000000", key]) {
  const { status, body } = await listOrders(db, presented, "192.0.2.7");
  console.log(status, status === 200 ? body.map((order) => order.item).join(" ") : body.error);
}
const { rows: [after] } = await db.query(
  "SELECT coalesce(apikeys.current_account(), 'nobody') AS account, (SELECT count(*) FROM shop.orders) AS orders");
console.log(`after: ('${after.account}', ${after.orders})`);
await db.end();

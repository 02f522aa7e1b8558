-- The load: wrk -s load.lua URL -- METHOD PATH CARTS
-- Requests PATH0, PATH1, ... up to CARTS in turn, repeatedly; a POST adds one of an item. bench reads the last line.

local requests, carts, turn = {}, 0, 0

function init(args)
  local method, path = args[1], args[2]
  carts = tonumber(args[3])
  local headers, body = {}, nil
  if method == "POST" then
    headers["Content-Type"], body = "application/json", '{"product_id":"sku-1","quantity":1}'
  end
  -- Made in advance, so that wrk itself is not measured.
  for n = 0, carts - 1 do requests[n] = wrk.format(method, path .. n, headers, body) end
end

function request()
  turn = (turn + 1) % carts
  return requests[turn]
end

function done(summary, latency, _)
  local e = summary.errors
  print(string.format("bench %d %d %d %d %d %d", summary.requests, summary.duration, latency:percentile(99),
    e.status, e.connect + e.read + e.write, e.timeout))
end

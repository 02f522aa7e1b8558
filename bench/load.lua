-- The load: wrk -s load.lua URL -- FILE, with one request a line: METHOD, PATH and BODY, separated by tabs.
-- The requests are sent in turn, repeatedly. bench/wrk.py reads the last line of the output.

local requests, turn = {}, 0

function init(args)
  -- Built before the run, so that wrk itself is not measured.
  for line in io.lines(args[1]) do
    local method, path, body = line:match("^(.-)\t(.-)\t(.*)$")
    local headers = {}
    if body == "" then body = nil else headers["Content-Type"] = "application/json" end
    requests[#requests + 1] = wrk.format(method, path, headers, body)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency, _)
  local e = summary.errors
  print(string.format("bench %d %d %d %d %d %d %d %d", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), latency:percentile(99.9), e.status, e.connect + e.read + e.write, e.timeout))
end

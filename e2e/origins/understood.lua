-- What Apache httpd understood of a request, as JSON.
require 'apache2'

-- Nothing here is a file.
function translate(r) r.filename = r.document_root .. '/understood.lua'; return apache2.OK end

local function quote(s)
  return '"' .. tostring(s):gsub('[%c"\\]', function(c) return string.format('\\u%04x', c:byte()) end) .. '"'
end

local function pairsOf(multi, last)
  local out = {}
  for k, v in pairs(multi) do
    if type(v) ~= 'table' then v = { v } end
    for i = 1, #v do
      -- parsebody gives the values of one name from the last to the first.
      out[#out + 1] = '[' .. quote(k) .. ',' .. quote(v[last and #v + 1 - i or i]) .. ']'
    end
  end
  return '{"pairs":[' .. table.concat(out, ',') .. ']}'
end

function handle(r)
  r.content_type = 'application/json'
  local _, multi = r:parseargs()
  local query = pairsOf(multi)
  -- parseargs leaves a plus as it is, which no other reader does, and keeps no order in a list.
  if (r.args or ''):find('+', 1, true) then query = '{"error":"a plus in the query"}' end
  for _, v in pairs(multi) do
    if type(v) == 'table' then query = '{"error":"a list in the query"}' end
  end
  local body = ''
  if (r.headers_in['Content-Type'] or ''):find('^application/x%-www%-form%-urlencoded') then
    local _, form = r:parsebody(1048576)
    body = ',"body":{"lua":' .. pairsOf(form or {}, true) .. '}'
  end
  r:puts('{"method":' .. quote(r.method) .. ',"host":' .. quote(r.hostname) .. ',"path":' .. quote(r.uri)
    .. ',"query":{"lua":' .. query .. '}' .. body .. '}')
  return apache2.OK
end

# What Rack understood of a request, as JSON. Usage: puma -b tcp://127.0.0.1:PORT config.ru
require 'json'

def reader
  yield
rescue StandardError, RangeError => e
  { error: e.class.name }
end

def plain(v)
  case v
  when Hash
    return { filename: v[:filename], bytes: v[:tempfile].size } if v[:tempfile]
    v.to_h.transform_values { |e| plain(e) }
  when Array then v.map { |e| plain(e) }
  else v
  end
end

run lambda { |env|
  req = Rack::Request.new(env)
  # Not req.host: Rack believes X-Forwarded-Host, unless a proxy before it takes that away.
  out = { method: req.request_method, host: req.get_header('HTTP_HOST'), path: URI::DEFAULT_PARSER.unescape(env['PATH_INFO']).force_encoding('UTF-8'),
          query: { rack: reader { { nested: req.GET.to_h } } } }
  case req.media_type
  when 'application/x-www-form-urlencoded', 'multipart/form-data'
    out[:body] = { rack: reader { { nested: plain(req.POST) } } }
  when /json/
    out[:body] = { JSON: reader { { json: JSON.parse(env['rack.input'].read.force_encoding('UTF-8')) } } }
  end
  body = JSON.generate(out)
  [200, { 'Content-Type' => 'application/json', 'Content-Length' => body.bytesize.to_s }, [body]]
}

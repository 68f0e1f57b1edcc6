<?php
// What PHP understood of a request, as JSON. Usage: php -S 127.0.0.1:PORT understood.php
ini_set('serialize_precision', '-1');
$type = strtolower(trim(explode(';', $_SERVER['CONTENT_TYPE'] ?? '')[0]));
$out = [
  'method' => $_SERVER['REQUEST_METHOD'],
  'host' => parse_url('http://' . $_SERVER['HTTP_HOST'], PHP_URL_HOST),
  'path' => rawurldecode(parse_url('http://h' . $_SERVER['REQUEST_URI'], PHP_URL_PATH)),
  'query' => ['_GET' => ['nested' => (object) $_GET]],
];
if ($_SERVER['REQUEST_METHOD'] === 'POST' && $type === 'application/x-www-form-urlencoded') {
  $out['body'] = ['_POST' => ['nested' => (object) $_POST]];
}
if ($_SERVER['REQUEST_METHOD'] === 'POST' && $type === 'multipart/form-data') {
  $file = function ($name, $size) use (&$file) {
    if (!is_array($name)) {
      return ['filename' => $name, 'bytes' => $size];
    }
    foreach ($name as $k => $n) {
      $name[$k] = $file($n, $size[$k]);
    }
    return $name;
  };
  $nested = $_POST;
  foreach ($_FILES as $name => $f) {
    $nested = array_replace_recursive($nested, [$name => $file($f['name'], $f['size'])]);
  }
  $out['body'] = ['_POST' => ['nested' => (object) $nested]];
}
if (str_contains($type, 'json')) {
  $v = json_decode(file_get_contents('php://input'), false, 512);
  $out['body'] = ['json_decode' => json_last_error() ? ['error' => json_last_error_msg()] : ['json' => $v]];
}
header('Content-Type: application/json');
echo json_encode($out, JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE | JSON_PRESERVE_ZERO_FRACTION);
